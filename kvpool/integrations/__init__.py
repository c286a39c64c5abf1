"""The pool inside of inference engines. Each integration needs an extra of its own."""
