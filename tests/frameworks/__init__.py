"""Programs of other projects on rloop's loop, started as their users start them."""
