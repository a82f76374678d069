"""What every room uses: errors, files, registries, devices, terminal, units, SVG. Imports nothing else of proard."""
