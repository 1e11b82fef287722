"""What runs inside the sandbox: standard library only, and nothing here is trusted by the host.

The kernel filter is the boundary. Code of the model shares this process, so it may rewrite every line of
it; whatever these modules promise (capped output, tidy frames, friendly messages) is ergonomics.
"""
