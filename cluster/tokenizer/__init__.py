"""SentencePiece with the nine specials, the chat template as ids, and incremental decoding. No torch."""
