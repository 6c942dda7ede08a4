"""What a model keeps from one call to the next, kept in another form."""
