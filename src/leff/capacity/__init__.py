"""What fits a device and how long it takes: sizes, peaks, fleet files, choices, schedules."""
