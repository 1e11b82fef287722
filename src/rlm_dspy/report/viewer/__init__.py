"""The viewer of recorded runs: one HTML file that opens in a browser, and a trace for Perfetto."""
