"""stub"""
def main():
    import sys
    from lightning_modules.cli import fit
    fit(sys.argv[2:])
