// Memory that maps a file: what is still the file's need not be resident.
#pragma once

#include <cstddef>

namespace crucible {

// Whether no page of memory is one of the process's own: it maps a file, and if privately, nobody
// has written there. False where the system does not tell; Linux does.
bool is_of_file(const void* memory, std::size_t bytes);

// Takes from the process the pages that lie wholly within memory that maps a file privately and for
// which `is_of_file` holds: they are read from the file again when they are next touched. Nobody
// may write there meanwhile. Returns whether it did.
bool give_back(void* memory, std::size_t bytes);

}  // namespace crucible
