"""What the numbered scripts share. Knows both frameworks, knows nothing of MobileNet."""
