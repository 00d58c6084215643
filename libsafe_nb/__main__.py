from libsafe_nb.cli import main

main()
