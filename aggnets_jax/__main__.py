"""Make `python -m aggnets_jax` the same as the command `aggnets`."""

import sys

from aggnets_jax.main import main

if __name__ == "__main__":
    sys.exit(main())
