"""``python -m clipcls``."""

from clipcls.cli import main

if __name__ == "__main__":
    main()
