"""Raw videos -> 263x263 crops in Parquet -> episodes. NumPy, OpenCV, Arrow, Ray Data; no torch."""
