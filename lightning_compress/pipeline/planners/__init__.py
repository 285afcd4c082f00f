"""Plans made in closed form, without a search and without scoring candidates. One class a file."""
