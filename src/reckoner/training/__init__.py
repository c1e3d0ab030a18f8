"""What every training run does besides its equations."""
