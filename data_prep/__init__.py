"""Programs that make the data the package ships or trains on. They use `gpavatar`; `gpavatar` never uses them."""
