include { options ; threads } from '../shell'

// Peaks whose accessibility goes with the expression of a gene near them, over paired cells
process LINKS {
    label 'process_medium'
    label 'image_cpu'

    input:
    path embedding
    path imputed, stageAs: 'imputed/*' // rna.zarr, or []
    val settings                       // [ genome, chrom_style, fdr, seed ]
    path gtf, stageAs: 'genome/gtf/*'
    path tss, stageAs: 'genome/tss/*'
    path fasta, stageAs: 'genome/fasta/*'

    output:
    path 'links.tsv.gz', emit: table, optional: true
    path 'links.bedpe', emit: bedpe, optional: true
    path 'links.json', emit: facts // what was made, or why not
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-links --resources links.resources.json ${embedding} \\
        ${options(imputed: imputed, gtf: gtf, tss: tss, fasta: fasta)} ${options(settings)} \\
        --facts=links.json --output=.
    """

    stub:
    """
    touch links.tsv.gz links.bedpe
    echo '{"part": "links", "done": true}' > links.json
    echo '{}' > links.resources.json
    """
}
