"""What the user declares: samplesheet, contrasts, barcodes, and the genome."""
