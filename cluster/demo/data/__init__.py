"""What the demo model is taught: phrases, words, tools, and the conversations made of them. No torch."""
