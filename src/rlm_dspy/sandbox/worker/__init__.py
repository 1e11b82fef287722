"""The code inside the sandbox: it uses only the standard library, and the host trusts none of it.

The kernel filter is the boundary. The model's code shares this process and may rewrite every line of it, so
what these modules provide (capped output, tidy frames, friendly messages) is ergonomics.
"""
