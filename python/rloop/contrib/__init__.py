"""What connects rloop with other libraries, a file for each. None of them is imported by rloop itself."""
