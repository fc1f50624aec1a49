"""Memory Maze: layouts, mechanics, a raycaster, and the environments made of them."""
