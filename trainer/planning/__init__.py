"""What a training would take: memory, time, reading, before there are machines for it."""
