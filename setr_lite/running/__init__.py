"""What a long run needs beside its steps: memory, meters, guard, log. Imports up to model."""
