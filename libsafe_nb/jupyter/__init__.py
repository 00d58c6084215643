"""What a Jupyter server gets from us, for the Lab."""
