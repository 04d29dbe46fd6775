"""What keeps one client's update from being seen: sums under masks, bounds and noise."""
