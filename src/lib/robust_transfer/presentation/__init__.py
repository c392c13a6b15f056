"""Tables, figures and charts for readers, whatever paper they are about."""
