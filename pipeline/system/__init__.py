"""What is asked of the operating system: files, keys, memory, clocks, and what libraries may send."""
