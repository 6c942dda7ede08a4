"""What is emitted as source text: ``c``, a whole graph for microcontrollers."""
