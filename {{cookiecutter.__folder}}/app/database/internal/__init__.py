"""What the modules beside this folder stand on. Features import nothing from here."""
