"""Count matrices as tools write them, read to AnnData with stable feature ids and whole-number counts."""
