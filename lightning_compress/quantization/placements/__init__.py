"""Where activation quantizers stand: one file each, collected from ``conf/compress/placement``."""
