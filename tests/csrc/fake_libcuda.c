/* Stands in for the CUDA driver: every call leaves one line in a log, which the test reads. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static char text[1 << 16];
static size_t length;
static int current = -1;  /* device of the current context; -1: there is none */
static int failing = 0;   /* status of the next launch */
static int words = 0;     /* arguments of the next launch */

const char* fake_log(void) { return text; }
void fake_forget(void) { text[length = 0] = 0; }
void fake_current(int device) { current = device; }
void fake_fail(int status) { failing = status; }
void fake_words(int count) { words = count; }

#define SAY(...) (length += (size_t)snprintf(text + length, sizeof text - length, __VA_ARGS__))

int cuGetErrorString(int status, const char** said) {
  *said = status == 1 ? "invalid argument" : "another error";
  return 0;
}
int cuCtxGetDevice(int* device) {
  *device = current;
  return current < 0 ? 201 : 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  SAY("retain %d\n", device);
  *context = (void*)(intptr_t)(100 + device);
  return 0;
}
int cuCtxPushCurrent_v2(void* context) {
  SAY("push %d\n", (int)(intptr_t)context - 100);
  return 0;
}
int cuCtxPopCurrent_v2(void** context) {
  SAY("pop\n");
  *context = 0;
  return 0;
}
int cuThreadExchangeStreamCaptureMode(int* mode) {
  static int held = 0;
  const int before = held;
  SAY("capture mode %d\n", held = *mode);
  *mode = before;
  return 0;
}
int cuLibraryLoadData(void** library, const void* image, int* a, void** b, unsigned c, int* d,
                      void** e, unsigned f) {
  SAY("load %s\n", memcmp(image, "\177ELF", 4) == 0 ? "ELF" : "garbage");
  *library = (void*)image;
  return 0;
}
int cuLibraryGetKernel(void** kernel, void* library, const char* name) {
  SAY("kernel %s\n", name);
  *kernel = library;
  return 0;
}
int cuKernelSetAttribute(int attribute, int value, void* kernel, int device) {
  SAY("attribute %d = %d on %d\n", attribute, value, device);
  return 0;
}
int cuLaunchKernel(void* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned b,
                   unsigned c, unsigned shared, void* stream, void** arguments, void** extra) {
  if (failing) return failing;
  SAY("launch %u %u %u by %u %u %u, %u bytes, stream %d:", x, y, z, threads, b, c, shared,
      (int)(intptr_t)stream);
  for (int i = 0; i < words; ++i) SAY(" %016llx", *(unsigned long long*)arguments[i]);
  SAY("\n");
  return 0;
}
