from multivi_nf.commands import main

main()
