"""The operating system: files, keys, memory, clocks, and the telemetry of libraries."""
