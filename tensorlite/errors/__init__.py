"""What is refused, and the sentences that say so."""
