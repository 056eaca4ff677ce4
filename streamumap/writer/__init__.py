"""Files of activations, written batch by batch."""
