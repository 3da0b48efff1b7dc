"""`python -m ckrm_kernels` is `ckrm`, as torchrun starts it."""

from ckrm_kernels.cli import main

if __name__ == "__main__":
    main()
