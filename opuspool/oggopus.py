"""placeholder until helper-2 delivers"""

Source = object
