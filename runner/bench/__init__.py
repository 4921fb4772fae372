"""How fast a recipe trains here, told honestly: nothing of it is kept in the store."""
