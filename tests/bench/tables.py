"""Tables in Markdown, printed row by row during a sweep. docs/measurements.md takes them unchanged."""


def print_head(*columns):
    """The first two lines. The first column is text, all others are aligned to the right."""
    print_row(*columns)
    print_row("---", *["---:"] * (len(columns) - 1))


def print_row(*cells):
    """One line; a vertical bar within a cell does not end it."""
    print("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |", flush=True)


def ms(seconds, digits=0):
    """Milliseconds, as a cell."""
    return f"{seconds * 1000:,.{digits}f} ms"
