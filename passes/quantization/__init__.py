"""Values and weights put into formats of few bits: what is decided where, by which evidence."""
