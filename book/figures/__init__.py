"""What draws the pages: figures that move without a kernel. The library imports none of it."""
