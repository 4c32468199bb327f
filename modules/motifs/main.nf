include { options ; threads } from '../shell'

// Motifs in the peaks, how far each cell's accessibility at them departs from what is expected, and groups that differ
process MOTIFS {
    label 'process_medium'
    label 'image_cpu'

    input:
    path embedding
    val settings                           // [ chrom_style, groups, seed ]
    path fasta, stageAs: 'genome/fasta/*'  // or []
    path motifs, stageAs: 'genome/motifs/*' // or []: those that the environment holds

    output:
    path 'motifs.h5ad', emit: deviations, optional: true
    path 'motifs.tsv.gz', emit: table, optional: true
    path 'motifs.json', emit: facts // what was made, or why not
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-motifs --resources motifs.resources.json ${embedding} \\
        ${options(fasta: fasta, motifs: motifs)} ${options(settings)} --facts=motifs.json --output=.
    """

    stub:
    """
    touch motifs.h5ad motifs.tsv.gz
    echo '{"part": "motifs", "done": true}' > motifs.json
    echo '{}' > motifs.resources.json
    """
}
