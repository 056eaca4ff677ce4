"""Writers of activation files, batch by batch."""
