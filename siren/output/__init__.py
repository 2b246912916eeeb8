"""The files of the output folder, and the record of those that this program wrote."""
