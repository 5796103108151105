"""`lora_linear_many`: layers that share x, rows that have updates of their own."""
