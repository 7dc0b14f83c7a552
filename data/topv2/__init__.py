"""TOPv2: reading and writing its layout, splits, checksums, download, report."""
