"""Names of the ways to train in a target domain; nothing heavy is imported here, so that command lines can list them."""

#: Trainings in the target under a mask of the source: with the source's initial values, with fresh random values, or with
#: the values of an early step in the source.
TRANSFERRED = ("masks_reset", "masks_random", "masks_rewound")
#: All of them; the first three know nothing of the source.
STRATEGIES = ("dense", "ticket_target", "random_mask", *TRANSFERRED)
