"""Everything that touches the world: flags, files, clocks, devices, pictures. The mathematics is in
`fdiv`."""
