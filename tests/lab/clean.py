"""`python -m tests.lab.clean`: remove what labs of dead processes left behind."""

from tests.support.lab import janitor

if __name__ == "__main__":
    for name in janitor.clean():
        print(f"removed {name}")
