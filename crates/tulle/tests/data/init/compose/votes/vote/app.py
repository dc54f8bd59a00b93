# What is built.
