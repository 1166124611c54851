"""Named presets, one file each, headed by the command and what it should give. `PRESETS` maps a
name to (text, config)."""
