"""What a process shows of itself: heartbeats, health, metrics, queue lengths."""
